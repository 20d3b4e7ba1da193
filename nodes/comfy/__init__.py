"""Everything private to ComfyUI that the nodes touch."""
