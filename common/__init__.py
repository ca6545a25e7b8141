"""What everything below the command line shares: files, errors, the parser, provenance, figures, pages."""
