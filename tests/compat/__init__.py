"""What the bridge works with, tried: `scripts/compat` makes the table of docs/compatibility.md."""
