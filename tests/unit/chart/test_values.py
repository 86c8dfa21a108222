"""Values that cannot work are refused before anything reaches the cluster, and the message says where."""

from __future__ import annotations

import pytest

from tests.unit.chart.helm import CHART, run_helm, template


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("replica=3", "additional properties 'replica' not allowed"),
        ("control.replica=3", "at '/control': additional properties 'replica' not allowed"),
        ("provisioners.gpu.queue=x", "at '/provisioners/gpu'"),
        ("provisioners.GPU.replicas=1", "invalid propertyName 'GPU'"),
        ("provisioners.gpu.queues={prebuilds}", "/provisioners/gpu"),
        (
            "config.PREBUILDS_RECONCILE_INTERVALL=15s",
            "additional properties 'PREBUILDS_RECONCILE_INTERVALL' not allowed",
        ),
        ("config.PREBUILDS_STATE_KEY=secret", "additional properties 'PREBUILDS_STATE_KEY' not allowed"),
        ("config.PREBUILDS_ORPHANS=keep", "at '/config/PREBUILDS_ORPHANS'"),
        ("config.OTEL_EXPORTER_OTLP_HEADERS=a=b", "at '/config/OTEL_EXPORTER_OTLP_HEADERS'"),
        ("control.extraEnv[0].name=PREBUILDS_STATE_KEY", "at '/control/extraEnv/0/name'"),
        ("database.url=postgresql://me:secret@db/prebuilds", "at '/database/url'"),
        ("database.url=postgresql://db/prebuilds?password=secret", "at '/database/url'"),
        ("database.worker.password=secret", "additional properties 'password' not allowed"),
        ("database.worker.passwordSecret=secret", "at '/database/worker/passwordSecret'"),
        ("temporal.address=https://temporal:7233", "at '/temporal/address'"),
        ("control.replicas=two", "at '/control/replicas'"),
        ("control.terminationGracePeriodSeconds=5", "at '/control/terminationGracePeriodSeconds'"),
        ("control.podLabels.app\\.kubernetes\\.io/name=x", "invalid propertyName 'app.kubernetes.io/name'"),
        ("http.autoscaling.by=backlog", "at '/http/autoscaling/by'"),
        ("podSecurityContext.runAsUser=0", "at '/podSecurityContext/runAsUser'"),
        ("monitoring.job=workspaces", "at '/monitoring/job'"),
        ("image.digest=latest", "at '/image/digest'"),
        ("workerController.rollout.strategy=Progressive", "at '/workerController/rollout'"),
        ("workerController.sunset.scaledownDelay=300", "at '/workerController/sunset/scaledownDelay'"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(value: str, message: str) -> None:
    refused = template("--set", value)
    assert refused.returncode != 0, refused.stdout
    assert message in refused.stderr


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("image.repository=", "image.repository is empty: build the image"),
        ("database.url=", "database.url is empty: name the database"),
        ("temporal.address=", "temporal.address is empty: name Temporal's frontend"),
        ("http.ingress.enabled=true", "http.ingress.host is empty"),
        ("monitoring.serviceMonitor.enabled=true", "networkPolicy.metricsFrom is empty"),
        ("control.autoscaling.enabled=true,control.autoscaling.minReplicas=20", "minReplicas 20 is larger"),
        ("claims.autoscaling.enabled=true,claims.autoscaling.by=metrics", "the list of metrics is empty"),
        ("workerController.enabled=true,control.autoscaling.enabled=true", "make a WorkerResourceTemplate"),
        ("workerController.claims=true", "workerController.enabled is not"),
        ("workerController.enabled=true,temporal.tls.enabled=true", "make a Connection of your own"),
        (
            "workerController.enabled=true,temporal.tls.enabled=true,temporal.tls.existingSecret=tls,"
            "temporal.tls.cert=client.crt,temporal.tls.key=client.key",
            "the controller reads tls.crt",
        ),
        ("database.tls.existingSecret=tls,database.tls.cert=tls.crt", "database.tls.key is empty"),
    ],
)
def test_a_missing_value_is_refused_with_what_to_write(value: str, message: str) -> None:
    refused = template("--set", value)
    assert refused.returncode != 0
    assert message in refused.stderr


def test_the_chart_alone_says_what_it_needs() -> None:
    refused = run_helm("template", "main", str(CHART))
    assert refused.returncode != 0
    assert "is empty: " in refused.stderr
