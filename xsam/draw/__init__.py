"""Pictures of what a request and its result look like. OpenCV only, no PyTorch."""

from xsam.draw.overlay import draw_depth, draw_outline, draw_overlay, draw_prompts

__all__ = ["draw_depth", "draw_outline", "draw_overlay", "draw_prompts"]
