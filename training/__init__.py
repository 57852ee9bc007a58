"""Making models of our own, free of any host: torch and safetensors only."""
