"""X-SAM's network, one file per block of the paper (arXiv 2508.04655, section 3).

Stock blocks come from `transformers` (Phi-3, SigLIP, the SAM image encoder, Mask2Former's pixel
decoder and transformer decoder) and keep its parameter names, so that the published weights load
tensor by tensor. Shape letters used throughout:

    B images   P prompts of one image   T image tokens   L text tokens   K conditions
    Q mask queries   C channels   D hidden size of the LLM   H, W height and width
"""
