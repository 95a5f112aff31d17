# Every developer and user task. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := bash
export ONNXRUNTIME_NODE_INSTALL := skip
export ORT_DISABLE_TELEMETRY := 1
NODE_STAMP := node_modules/.package-lock.json
BUILD_STAMP := dist/.built
TOOLS_STAMP := .venv-tools/.installed
SOURCES := $(shell find src -name '*.ts' 2>/dev/null)

.PHONY: help node node-for-tests setup build serve test test-s3 test-observability test-kubernetes test-keda test-images test-browsers check bench bench-fresh bench-tools faults fuzz soak api-memory webhooks merged scales capacity rolling scaling tools openapi docs playground-picture test-models train evaluate convert full-size strips-memory clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The Node.js of the PATH may be another one than that of the last run, so these look every time. After a bar (|), for
# what has no file would have everything made again.
node:
	@scripts/setup.sh node

node-for-tests:
	@scripts/setup.sh node tests

test test-s3 test-observability test-kubernetes test-keda test-images test-browsers check openapi docs playground-picture: | node-for-tests

$(NODE_STAMP): package.json package-lock.json .npmrc | node
	@scripts/setup.sh packages
	@touch $@

$(BUILD_STAMP): $(NODE_STAMP) $(SOURCES) tsconfig.json tsconfig.build.json | node
	@rm -rf dist
	@npx --no-install tsc -p tsconfig.build.json
	@chmod +x dist/cli.js
	@touch $@

setup: $(NODE_STAMP) ## Install npm packages and redis-server
	@scripts/setup.sh redis

build: $(BUILD_STAMP) ## Compile to dist/

serve: $(BUILD_STAMP) ## All set-up, then the service on port 8080
	@scripts/setup.sh redis
	@exec node dist/cli.js serve

test: $(BUILD_STAMP) ## All set-up, then the checks and every test of the service
	@scripts/setup.sh redis always
	@scripts/setup.sh curl
	@scripts/setup.sh webgpu
	@scripts/setup.sh browser
	@$(MAKE) --no-print-directory check
	@npx --no-install vitest run --project unit --project service

test-s3: tools $(BUILD_STAMP) ## Test storage in S3 against moto (PyPI), or the server at S3_TEST_ENDPOINT
	@scripts/setup.sh redis always
	@npx --no-install vitest run --project service test/integration/s3-store.test.ts

test-observability: $(BUILD_STAMP) ## Test metrics, alerts and dashboards with a real Prometheus
	@scripts/setup.sh redis always
	@scripts/setup.sh prometheus
	@npx --no-install vitest run --project observability

test-kubernetes: $(BUILD_STAMP) ## Build Kubernetes and Helm (needs Go), then run the chart in them
	@scripts/setup.sh redis always
	@export KUBERNETES_TOOLS; KUBERNETES_TOOLS=$$(scripts/kubernetes-tools.sh) && npx --no-install vitest run --config test/kubernetes/vitest.config.ts

test-keda: $(BUILD_STAMP) ## Build KEDA as well (a quarter of an hour), then scale by it
	@scripts/setup.sh redis always
	@export KUBERNETES_TOOLS; KUBERNETES_TOOLS=$$(scripts/kubernetes-tools.sh keda) && SCALER=keda npx --no-install vitest run --config test/kubernetes/vitest.config.ts test/kubernetes/scaling.test.ts

test-images: $(BUILD_STAMP) ## Build the CPU image without Docker and serve photos from it (Linux, root, Go)
	@scripts/setup.sh containers
	@export IMAGE_TOOLS; IMAGE_TOOLS=$$(scripts/image-tools.sh) && test/images/run.sh

test-browsers: $(BUILD_STAMP) ## Test the playground in Firefox too (Debian's firefox-esr)
	@scripts/setup.sh redis always
	@scripts/setup.sh firefox
	@PLAYGROUND_BROWSER=firefox-esr npx --no-install vitest run --project service test/e2e/playground

check: $(NODE_STAMP) ## Types, lint, import rules, dead code, packages for this Node.js
	@npx --no-install tsc -p tsconfig.json --noEmit
	@npx --no-install tsc -p tsconfig.web.json
	@npx --no-install biome check --error-on-warnings .
	@npx --no-install knip
	@npm ci --dry-run --offline --engine-strict --loglevel=error >/dev/null

bench: bench-tools ## Measure, print a table, write bench/results/
	@node .bench/bench/run.js $(BENCH_FLAGS)

bench-tools: $(BUILD_STAMP)
	@scripts/setup.sh redis always
	@npx --no-install tsc -p tsconfig.bench.json

faults: bench-tools ## JOBS=500 jobs under random kills of every kind of process
	@node .bench/bench/faults.js

fuzz: bench-tools tools ## REQUESTS=10000 hostile requests: schemathesis, damaged images, forbidden URLs
	@node .bench/bench/fuzz.js

soak: bench-tools ## MINUTES=30 of mixed load at 90 % of capacity: memory, latency
	@node .bench/bench/soak.js

api-memory: bench-tools ## REQUESTS=120000 of jobs that need no device: memory of the API
	@node .bench/bench/api-memory.js

webhooks: bench-tools ## Every kind of bad webhook receiver; one is down for MINUTES=10
	@node .bench/bench/webhook-matrix.js

merged: bench-tools ## Jobs with the merged UNets of pisa-tiny against its gated one
	@node .bench/bench/merged.js

scales: bench-tools ## Sharp photos at scales below the model's: worked on at its scale, against at the output's
	@node .bench/bench/scales.js

capacity: bench-tools ## Workers, waits and cost by simulation, checked against the real service
	@node .bench/bench/capacity.js

rolling: bench-tools ## Replace every process under load: no request may fail, no job be lost
	@node .bench/bench/rolling.js

scaling: bench-tools ## Workers follow the queue as the chart has it (a quarter of an hour; SCALE=5: minutes)
	@node .bench/bench/scaling.js

tools: $(TOOLS_STAMP)

$(TOOLS_STAMP): test/tools/requirements.txt
	@scripts/setup.sh python
	@test -x .venv-tools/bin/python || python3 -m venv .venv-tools
	@.venv-tools/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

bench-fresh: ## Time a fresh clone: first image, second start
	@scripts/setup.sh curl
	@bench/fresh-clone.sh

openapi: $(NODE_STAMP) ## Write openapi.yaml from the route schemas
	@scripts/setup.sh redis always
	@npm run -s openapi

docs: $(NODE_STAMP) ## Write the generated pages of docs/
	@npx --no-install vitest run --project unit test/unit/docs.test.ts test/unit/dashboards.test.ts --update

playground-picture: $(BUILD_STAMP) ## Take docs/images/playground.jpg in a browser
	@scripts/setup.sh redis always
	@scripts/setup.sh browser
	@command -v chromium >/dev/null || { echo "No picture was taken: chromium is missing." >&2; exit 1; }
	@PLAYGROUND_PICTURE=docs/images/playground.jpg npx --no-install vitest run --project service test/e2e/playground.test.ts -t 'a picture of it'

test-models: ## All set-up (PyPI), then the tests of python/
	@$(MAKE) --no-print-directory -C python test

train: ## Train the embedded model from nothing (hours)
	@$(MAKE) --no-print-directory -C python train

evaluate: ## Fetch photos, then judge the embedded model on them (docs/evaluation.md)
	@$(MAKE) --no-print-directory -C python evaluate

convert: ## Make models/pisa-sr from BASE=… and LORA=… (docs/models.md)
	@$(MAKE) --no-print-directory -C python convert

full-size: $(BUILD_STAMP) ## The paper's model in full size, random weights, against PyTorch (docs/models.md)
	@npx --no-install tsc -p tsconfig.bench.json
	@$(MAKE) --no-print-directory -C python full-size

strips-memory: $(BUILD_STAMP) ## Peak memory of the paper's model in strips, against whole images (docs/models.md)
	@npx --no-install tsc -p tsconfig.bench.json
	@$(MAKE) --no-print-directory -C python strips-memory

clean: ## Remove what the other targets made here
	@rm -rf dist .bench node_modules .data .venv-tools python/.venv
