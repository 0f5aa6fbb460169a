"""The whole system on one machine, wired from infra/template.yaml.

template.py      the template: parse, translate (SAM), resolve parameters and intrinsics
wiring.py        what the template wires: frozen dataclasses
interpreter.py   names the resources on this machine, and makes those from them (resources/: each part of the system)
s3.py            the process that plays S3 and SQS (moto), with rules that moto lacks (s3_rules.py, presigned.py)
s3_process.py    starts and stops it, and creates bucket, queues and notifications there
lambda_pool.py   runs functions in separate processes (lambda_worker.py runs inside them)
event_source_mappings.py  queue to function, with partial failures
scheduler.py     EventBridge Scheduler
cloudfront.py    CloudFront, over HTTPS (certificates.py: its own certificate authority), with its functions in
                 cloudfront_function.py, their store in key_value_store.py, and its logs in cloudfront_logs.py
api_gateway.py   API Gateway
catalog_log.py   one line for each arrival and publication
sample.py        the sample image
state.py         stack.json, by which other programs find a running stack
stack.py         starts and stops all of it
"""
