"""Driving a real ComfyUI from outside: start it, talk to it, fly the demo. Standard library only.

dev.py and the tests share this. Nothing here is part of the node pack.
"""
