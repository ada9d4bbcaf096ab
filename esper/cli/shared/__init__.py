"""What commands share: options, figures, tables, pictures."""
