// Where the custom resource definitions come from that `make test-kubernetes` installs. `go mod tidy` would empty
// this: nothing is imported.
module pisa-serve/test/kubernetes/crds

go 1.26.0

require (
	github.com/kedacore/keda/v2 v2.21.0
	github.com/prometheus-operator/prometheus-operator v0.85.0
)
