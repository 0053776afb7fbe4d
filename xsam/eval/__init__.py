"""Evaluation of a checkpoint through the engine's public door.

* Where questions come from: `scenes` (simulated), `coco` (folders in COCO's format), `sources` (any data set
  that training reads). `questions` holds what they have in common.
* Where answers go: `scoreboard`, and `pictures` for people.
* Metrics, without PyTorch: `overlap`, `average_precision`, `panoptic_quality`, `grounded_captions` and
  `captions`.
"""
