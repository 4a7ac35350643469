"""Sessions for programs: `output.Output(form, stream_json.Messages(init=Init(...))).follow(events)` prints a run
as text, json or stream-json and gives the exit code; `abort(reason)` ends one that came to no result.
"""
