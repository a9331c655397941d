"""rosbag2 in and out: messages, reader, writer, recovery, pairs, quality."""
