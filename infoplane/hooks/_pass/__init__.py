"""The probe pass: what runs, what of it is taken, and how all else is left as it was."""
