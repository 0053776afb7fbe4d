"""Evaluation of a checkpoint through the engine's public API.

* Questions come from `benchmarks` (published), `scenes` (simulated), `coco` (folders in COCO's format), and
  `sources` (any dataset that training reads). `questions` and `layouts` hold what these have in common.
* `loop` asks them, also in several `processes`; `predictions` saves the results.
* Results go to `scoreboard`, and to `pictures` for visual inspection.
* Metrics, without PyTorch: `overlap`, `average_precision`, `panoptic_quality`, `grounded_captions`, and
  `captions`.
"""
