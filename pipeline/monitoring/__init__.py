"""What a person looks at: topics, groups and queues as they are now. Reads only."""
