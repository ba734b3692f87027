"""AWS's SDK: clients whose frequent calls are lean, and its errors."""
