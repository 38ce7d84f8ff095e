"""What people see: terminal, narrative, report."""
