"""Published labelled data sets, each a `scaleevent_ros.tasks.labelled.LabelledSource`.

In: the files of a data set, in its authors' layout, and bags with ground truth. Out: windows of
events with ground truth, read one by one, and the published splits by name.
"""
