"""The method of Mirage, free of any host: torch, numpy, einops, kornia and safetensors only.

Read in this order (a file imports only files above it; tests/core/test_layers.py enforces it):
latent_grid, camera, path_motion, camera_path, path_presets, path_formats, depth, mask_shapes, masks, parallax,
evidence, mask_rules, memory, tensor_files, memory_files, sight, patches, winners, zbuffer, between_cells, upkeep,
free_space, settling, fusion, memory_edits, known_patches, anchors, alignment, pose_refinement, movers, rgb_memory,
memory_merge, references, segments, latent_origin, rollout, rollout_checks, rollout_trees, rollout_files, film,
scene_files, memory_numbers, preflight, pose_errors, drift, metrics, side_branch, weights, branch_files, lora_files,
scene_words.
"""
