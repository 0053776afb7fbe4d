"""Drawing of requests and results on images, without PyTorch."""

from xsam.draw.overlay import draw_depth, draw_outline, draw_overlay, draw_prompts

__all__ = ["draw_depth", "draw_outline", "draw_overlay", "draw_prompts"]
