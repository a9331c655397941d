"""Published labelled data sets, each a `scaleevent_ros.tasks.labelled.LabelledSource`.

In: the files of a data set, as its authors lay them out, and bags with truth. Out: windows of
events with their truth, read one by one, and the published splits by name.
"""
