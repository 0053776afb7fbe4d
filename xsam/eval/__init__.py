"""Evaluation of a checkpoint through the engine's public API.

* Questions come from `scenes` (simulated), `coco` (folders in COCO's format), and `sources` (any dataset that
  training reads). `questions` holds what these have in common.
* Results go to `scoreboard`, and to `pictures` for visual inspection.
* Metrics, without PyTorch: `overlap`, `average_precision`, `panoptic_quality`, `grounded_captions`, and
  `captions`.
"""
