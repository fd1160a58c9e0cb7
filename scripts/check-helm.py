"""Checks rendered manifests of deploy/helm, for scripts/check-helm:

- A program gets only variables that it accepts (docs/configuration.md, docs/tracing.md), and its secrets from Secrets.
- Files in variables are mounted, and references between resources lead somewhere.
- No pod has rights, and each has limits, probes, and time for its shutdown.
- Resources of KEDA and the Prometheus operator have the fields of their definitions.
"""

import re
import sys
from pathlib import Path

import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor

CUSTOM = {"ScaledObject": ScaledObject, "ServiceMonitor": ServiceMonitor}
SECRETS = {"JWT_SECRET", "REDIS_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
# The time after the drain that a program may need for what is not in GRACE: the last spans, and the log.
FLUSH_SECONDS = 5
# The limits of a projector: a receive call, and the calls of its last messages.
PROJECTOR_SECONDS = 30
problems = []


def accepted(program):
    """The variables that a program accepts, in the first columns of the tables of the documents."""
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([a-z, -]+) \|", Path("docs/configuration.md").read_text(), re.M)
    names = {name for name, programs in rows if program in programs.split(", ")}
    if program == "migration":
        return names
    traces = re.findall(r"^\| `(OTEL_[A-Z_]+)`", Path("docs/tracing.md").read_text(), re.M)
    aws = {"AWS_REGION", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    return names | set(traces) | aws | {"RUST_LOG"}


def seconds_of_shutdown(program, variables):
    """The longest shutdown: each stage of an api has GRACE."""
    if program == "migration":
        return 0
    if program == "projector":
        return PROJECTOR_SECONDS
    grace = re.search(r"const GRACE: Duration = Duration::from_secs\((\d+)\)", Path("api/src/service.rs").read_text())
    return int(variables["DRAIN_DELAY"].removesuffix("s")) + 3 * int(grace[1]) + FLUSH_SECONDS


def check_variables(where, program, container):
    entries = {entry["name"]: entry for entry in container["env"]}
    if len(entries) < len(container["env"]):
        yield f"{where}: a variable is set twice"
    for name in sorted(set(entries) - accepted(program)):
        yield f"{where}: {program} does not accept {name}"
    for name in sorted(SECRETS & set(entries)):
        if "value" in entries[name]:
            yield f"{where}: the value of {name} is not in a Secret"
    directories = [mount["mountPath"] + "/" for mount in container.get("volumeMounts", [])]
    for name in (name for name in entries if name.endswith("_FILE")):
        if not any(entries[name]["value"].startswith(directory) for directory in directories):
            yield f"{where}: the file of {name} is not mounted"


def check_rights(where, pod, container):
    security, own = pod["securityContext"], container["securityContext"]
    for right, refused in {
        "run as root": security.get("runAsNonRoot") and security.get("runAsUser", 0) > 0,
        "use all system calls": security.get("seccompProfile", {}).get("type") == "RuntimeDefault",
        "gain privileges": own.get("allowPrivilegeEscalation") is False and not own.get("privileged"),
        "write to its root": own.get("readOnlyRootFilesystem"),
        "keep capabilities": own.get("capabilities") == {"drop": ["ALL"]},
        "call Kubernetes": pod.get("automountServiceAccountToken") is False,
        "use any amount of memory": "memory" in container["resources"]["limits"],
    }.items():
        if not refused:
            yield f"{where}: the pod may {right}"


def check_pod(where, resource):
    template = resource["spec"]["template"]
    pod, (container,) = template["spec"], template["spec"]["containers"]
    program = container["args"][0]
    yield from check_variables(where, program, container)
    yield from check_rights(where, pod, container)
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    if volumes != {mount["name"] for mount in container.get("volumeMounts", [])}:
        yield f"{where}: volumes and mounts differ"
    if resource["kind"] == "Deployment":
        for probe, path in {"startupProbe": "live", "livenessProbe": "live", "readinessProbe": "ready"}.items():
            get = container[probe]["httpGet"]
            if get["path"] != f"/health/{path}" or get["port"] not in [port["name"] for port in container["ports"]]:
                yield f"{where}: {probe} asks for {get}"
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    if pod.get("terminationGracePeriodSeconds", 30) < seconds_of_shutdown(program, variables):
        yield f"{where}: {program} is killed while it shuts down"


def is_in(part, whole):
    return all(whole.get(key) == value for key, value in part.items())


def check_references(where, resource, all_resources):
    """Selectors select something, and names exist."""
    kind, spec = resource["kind"], resource.get("spec", {})
    named = {(other["kind"], other["metadata"]["name"]) for other in all_resources}
    deployments = [other for other in all_resources if other["kind"] == "Deployment"]
    labels = [deployment["spec"]["template"]["metadata"]["labels"] for deployment in deployments]
    services = [other["metadata"]["labels"] for other in all_resources if other["kind"] == "Service"]
    if kind in ("Service", "PodDisruptionBudget", "Deployment"):
        selector = spec["selector"] if kind == "Service" else spec["selector"]["matchLabels"]
        if sum(is_in(selector, pod) for pod in labels) != 1:
            yield f"{where}: does not select one Deployment"
    if kind == "ServiceMonitor" and sum(is_in(spec["selector"]["matchLabels"], service) for service in services) != 2:
        yield f"{where}: does not select two Services"
    if kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        target = spec["scaleTargetRef"]["name"]
        if not [other for other in deployments if other["metadata"]["name"] == target and "replicas" not in other["spec"]]:
            yield f"{where}: {target} does not exist, or has a fixed number of replicas"
    if kind == "Ingress":
        for path in spec["rules"][0]["http"]["paths"]:
            if ("Service", path["backend"]["service"]["name"]) not in named:
                yield f"{where}: its Service does not exist"
    if kind == "Deployment":
        account = spec["template"]["spec"]["serviceAccountName"]
        if ("ServiceAccount", account) not in named:
            yield f"{where}: the account {account} does not exist"


def check_custom(where, resource):
    """A model drops fields that it does not know."""
    known = CUSTOM[resource["kind"]].model_validate(resource).model_dump(by_alias=True, exclude_unset=True, mode="json")
    for key, value in resource["spec"].items():
        if known["spec"].get(key) != value:
            yield f"{where}: spec.{key} is not as its definition says: {value}"


def check(file):
    resources = [resource for resource in yaml.safe_load_all(Path(file).read_text()) if resource]
    for resource in resources:
        where = f"deploy/helm with ci/{Path(file).name}: {resource['kind']} {resource['metadata']['name']}"
        yield from check_references(where, resource, resources)
        if resource["kind"] in ("Deployment", "Job"):
            yield from check_pod(where, resource)
        if resource["kind"] in CUSTOM:
            yield from check_custom(where, resource)


for file in sys.argv[1:]:
    problems += check(file)
print(*problems, sep="\n", end="\n" * bool(problems), file=sys.stderr)
sys.exit(bool(problems))
