"""The watchers: each sees one kind of event and notes it in the record. None of them draws conclusions."""
