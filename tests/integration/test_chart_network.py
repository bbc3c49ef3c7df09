"""Who may reach whom, by the NetworkPolicies that the chart renders."""

from __future__ import annotations

import pytest
from imagefleet_operator import gateways
from imagefleet_operator.settings import GATEWAY_SELECTOR

from tests.integration.helm import VALUE_SETS, Helm, of_kind


@pytest.fixture(scope="module")
def helm() -> Helm:
    return Helm()


def test_workers_are_open_to_the_operator_and_the_gateway_alone(helm: Helm) -> None:
    values = {"networkPolicy": {"workers": {"namespaces": ["pictures", "thumbnails"]}}}
    policies = [
        found for found in helm.template(values) if found["metadata"]["name"] == "fleet-imagefleet-workers"
    ]
    assert [policy["metadata"]["namespace"] for policy in policies] == ["pictures", "thumbnails"]
    for policy in policies:
        (rule,) = policy["spec"]["ingress"]
        assert rule["ports"] == [{"protocol": "TCP", "port": 8000}]
        assert [peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for peer in rule["from"]] == [
            "imagefleet-operator",
            "imagefleet-gateway",
        ]
        assert {
            peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in rule["from"]
        } == {"fleet-system"}
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        assert "egress" not in policy["spec"]


def test_workers_reach_what_the_values_name_and_dns(helm: Helm) -> None:
    https = {"ports": [{"protocol": "TCP", "port": 443}]}
    policies = of_kind(helm.template({"networkPolicy": {"workers": {"egress": [https]}}}), "NetworkPolicy")
    dns = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
    assert policies["fleet-imagefleet-workers"]["spec"]["egress"] == [dns, https]


def test_whoever_reads_metrics_is_let_in_everywhere(helm: Helm) -> None:
    values = VALUE_SETS["full"]
    monitoring = values["networkPolicy"]["metrics"]["from"][0]
    policies = of_kind(
        [found for found in helm.template(values) if found["kind"] == "NetworkPolicy"], "NetworkPolicy"
    )
    assert set(policies) == {"fleet-operator", "fleet-gateway", "fleet-workers"}
    for policy in policies.values():
        assert monitoring in policy["spec"]["ingress"][0]["from"]


def test_a_closed_gateway_still_answers_the_operator(helm: Helm) -> None:
    policies = of_kind(helm.template(VALUE_SETS["full"]), "NetworkPolicy")
    peers = policies["fleet-gateway"]["spec"]["ingress"][0]["from"]
    selectors = [peer["podSelector"]["matchLabels"] for peer in peers if "podSelector" in peer]
    assert [labels["app.kubernetes.io/name"] for labels in selectors] == ["imagefleet-operator"]


def test_the_operator_finds_and_reaches_the_gateways(helm: Helm) -> None:
    """By what it looks for where nothing else is said, on the port that it asks."""
    objects = helm.template(VALUE_SETS["full"])
    name, _, value = GATEWAY_SELECTOR.partition("=")
    found = {
        deployment
        for deployment, body in of_kind(objects, "Deployment").items()
        if body["spec"]["template"]["metadata"]["labels"].get(name) == value
    }
    assert found == {"fleet-gateway"}
    labels = of_kind(objects, "Deployment")["fleet-gateway"]["spec"]["template"]["metadata"]["labels"]
    rules = of_kind(objects, "NetworkPolicy")["fleet-operator"]["spec"]["egress"]
    allowed = [
        peer["podSelector"]["matchLabels"].items() <= labels.items()
        for rule in rules
        for peer in rule.get("to", ())
        if "podSelector" in peer and {"protocol": "TCP", "port": gateways.PORT} in rule["ports"]
    ]
    assert allowed == [True]
