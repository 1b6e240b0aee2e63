"""What travels on wires. Imports no ComfyUI."""
