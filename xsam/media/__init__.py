"""Sources of frames (pictures, folders, video, bags, cameras) and sinks of results (files of every kind).

`sources.open_sources` turns what a user names into sources of timestamped frames, and `run.segment_frames`
takes them through a segmenter into sinks. Everything streams: memory does not grow with the length of a
recording.
"""
