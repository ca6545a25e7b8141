"""The series form."""
