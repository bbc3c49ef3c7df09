module imagefleet.dev/tests/cluster/launcher

go 1.25
