"""The buckets: privacy, encryption, retention on deletion, and expiry."""

from collections.abc import Iterator

from gates.stack import Stack
from tests.support.deployment.rules.registry import differ, rule


@rule
def buckets_are_private_and_outlive_the_stack(stack: Stack) -> Iterator[str]:
    owners = {"Bucket": "BucketOwnerEnforced", "LogsBucket": "BucketOwnerPreferred"}
    yield from differ("buckets", stack.of_type("AWS::S3::Bucket").keys(), owners.keys())
    for name, bucket in stack.of_type("AWS::S3::Bucket").items():
        blocked = bucket.get("PublicAccessBlockConfiguration", {})
        for setting in ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"):
            yield from differ(f"{name} {setting}", blocked.get(setting), True)
        yield from differ(f"{name} ownership", bucket["OwnershipControls"]["Rules"][0]["ObjectOwnership"], owners[name])
        if not bucket.get("BucketEncryption"):
            yield f"{name} is not encrypted"
        # A deployment that failed must not leave a bucket behind whose name the next one wants.
        for policy, wanted in (("DeletionPolicy", "RetainExceptOnCreate"), ("UpdateReplacePolicy", "Retain")):
            yield from differ(f"{name} {policy}", stack.raw["Resources"][name].get(policy), wanted)


@rule
def old_generations_are_kept_for_a_while(stack: Stack) -> Iterator[str]:
    bucket = stack.properties("Bucket")
    yield from differ("versioning", bucket.get("VersioningConfiguration", {}).get("Status"), "Enabled")
    rules = [r for r in bucket["LifecycleConfiguration"]["Rules"] if r["Status"] == "Enabled"]
    whole = [r for r in rules if "Prefix" not in r]
    if not any(int(r.get("NoncurrentVersionExpiration", {}).get("NoncurrentDays", 0)) >= 1 for r in whole):
        yield "old generations never expire"
    if not any("AbortIncompleteMultipartUpload" in r for r in whole):
        yield "incomplete multipart uploads are never aborted"
    expiring = {r.get("Prefix", "") for r in rules if "ExpirationInDays" in r}
    yield from differ("prefixes whose objects expire", expiring, {"leases/", "mirrors/copies/"})
