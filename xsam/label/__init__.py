"""From recordings to a data set that trains a detector: `xsam label`.

`run.label_frames` takes the frames of a source through a segmenter into a journal, and
`data_set.write_data_set` makes the data set of the journal and of a reviewer's decisions. Decisions never
change the journal, so nothing is lost by a wrong one.
"""
