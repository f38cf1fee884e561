"""What moves a record on: loops that lease due work and do each record's next step."""
