"""Writers: one file a format; `write` is the way in. What a format cannot hold is never silent."""
