"""What a process is told from outside: settings, secrets, the example environment."""
