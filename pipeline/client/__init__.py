"""The client's side of jobs: submit them, and wait until they have ended."""
