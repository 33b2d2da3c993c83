"""The `illume` command: one file per verb."""
