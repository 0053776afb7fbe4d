"""What has to be known about a GPU, in one unattended run: `python -m benchmarks.gpu`."""
