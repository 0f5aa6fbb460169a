"""The whole system on one machine, wired from infra/template.yaml.

template.py     the template: parse, translate (SAM), resolve parameters and intrinsics
wiring.py       what the template wires: frozen dataclasses
interpreter.py  names the resources on this machine, and makes those from them (resources/: each part of the system)
s3.py           the process that plays S3 and SQS (moto), with rules that moto lacks (s3_rules.py, presigned.py)
s3_process.py   starts and stops it, and creates bucket, queues and notifications there
workers.py      runs functions in separate processes (worker.py runs inside them)
mappings.py     event source mappings: queue to function, with partial failures
schedules.py    EventBridge Scheduler's part
front.py        CloudFront's part, over HTTPS (certificates.py: its own certificate authority)
api.py          API Gateway's part
observer.py     one line for each arrival and publication
sample.py       the sample image
state.py        stack.json, by which other programs find a running stack
stack.py        starts and stops all of it
"""
