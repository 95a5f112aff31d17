{{/* Names. Short enough that `-worker-<class>` still fits into a label. */}}
{{- define "pisa.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "pisa.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "pisa.selector" . }}
{{- end -}}

{{- define "pisa.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The image of the API, or of a class of workers. Call with (dict "root" $ "image" <class's image, or empty>). */}}
{{- define "pisa.image" -}}
{{- $image := .root.Values.image -}}
{{- $own := default dict .image -}}
{{- $tag := printf "%s%s" (default .root.Chart.AppVersion $image.tag) (default "" $own.tagSuffix) -}}
{{ default $image.repository $own.repository }}:{{ default $tag $own.tag }}
{{- end -}}

{{/* A class of workers with the defaults of all. Call with (dict "root" $ "name" "gpu"); gives YAML. */}}
{{- define "pisa.worker" -}}
{{- $class := mustMergeOverwrite (deepCopy .root.Values.workerDefaults) (deepCopy (index .root.Values.workers .name | default dict)) -}}
{{- $class | toYaml -}}
{{- end -}}

{{/* A quantity of memory or disk, such as 4Gi, in bytes. */}}
{{- define "pisa.bytes" -}}
{{- $text := toString . -}}
{{- $number := regexFind "^[0-9.]+([eE][+]?[0-9]+)?" $text -}}
{{- $bytes := dict "" 1 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 -}}
{{- mulf (float64 $number) (index $bytes (trimPrefix $number $text)) | printf "%.0f" -}}
{{- end -}}

{{/* The same in megabytes of 10⁶ bytes, rounded down. */}}
{{- define "pisa.megabytes" -}}
{{- divf (include "pisa.bytes" . | float64) 1e6 | floor | int64 -}}
{{- end -}}

{{/* maxMemory of Redis, such as 3gb, in bytes: 1024 to the step, as Redis has it. */}}
{{- define "pisa.redisBytes" -}}
{{- $number := regexFind "^[0-9]+" . -}}
{{- mulf (float64 $number) (index (dict "" 1 "kb" 1024 "mb" 1048576 "gb" 1073741824) (trimPrefix $number .)) | printf "%.0f" -}}
{{- end -}}

{{/*
Refuses a memory limit that Redis would exceed. To rewrite its append-only file it forks, and until the new file is there each
page of memory that is written to is there twice; buffers of clients and of the rewrite come on top. The kernel ends what is
over the limit.
*/}}
{{- define "pisa.redisMemory" -}}
{{- $redis := .Values.redis.internal -}}
{{- with (default dict $redis.resources.limits).memory -}}
{{- $memory := include "pisa.redisBytes" $redis.maxMemory | float64 -}}
{{- $limit := include "pisa.bytes" . | float64 -}}
{{- if lt $limit (mulf $memory 1.5) -}}
{{- $least := divf (mulf $memory 1.5) 1048576 | ceil | int64 -}}
{{- $most := divf $limit 1572864 | floor | int64 -}}
{{- fail (printf "redis.internal.resources.limits.memory (%v) must be at least one and a half times redis.internal.maxMemory (%s): while Redis rewrites its append-only file, what is written meanwhile is in memory twice, and the kernel ends a Redis that is over its limit. Set redis.internal.resources.limits.memory to %dMi or more, or redis.internal.maxMemory to %dmb or less." . $redis.maxMemory $least $most) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Refuses a volume that Redis would fill. Its append-only file is rewritten when it has grown by half (redis.yaml), and
until the new file is there, the old one, what has been written meanwhile and the new one lie beside each other: two and
a half times the data, and more when much is written. A full volume refuses writes and deletions and does not empty itself.
*/}}
{{- define "pisa.redisVolume" -}}
{{- $redis := .Values.redis.internal -}}
{{- $memory := include "pisa.redisBytes" $redis.maxMemory | float64 -}}
{{- $size := include "pisa.bytes" $redis.size | float64 -}}
{{- if lt $size (mulf $memory 4.0) -}}
{{- $least := divf (mulf $memory 4.0) 1048576 | ceil | int64 -}}
{{- $most := divf $size 4194304 | floor | int64 -}}
{{- fail (printf "redis.internal.size (%v) must be at least four times redis.internal.maxMemory (%s): while Redis rewrites its append-only file, the old and the new one are there at once, and a full volume stops the queue. Set redis.internal.size to %dMi or more, or redis.internal.maxMemory to %dmb or less. The claim of an installed release is enlarged by hand: docs/kubernetes.md, \"A larger volume for Redis\"." $redis.size $redis.maxMemory $least $most) -}}
{{- end -}}
{{- end -}}

{{/*
What each device process of a class of workers may hold before it is replaced: its part of the memory limit, less what
the supervisor and a job in flight need on top, so that it is replaced in good order and not killed by the kernel in the
middle of a job. Empty without a limit. Call with the class.
*/}}
{{- define "pisa.deviceMegabytes" -}}
{{- with .resources.limits.memory -}}
{{- $devices := len (splitList "," $.devices) -}}
{{- divf (mulf (include "pisa.megabytes" . | float64) 0.85) $devices | floor | int64 | max 256 -}}
{{- end -}}
{{- end -}}

{{/*
Refuses CUDA devices that a pod would not have: it sees the GPUs that it asks for, numbered from 0. Without `gpus` they may come
from elsewhere: a resource that the limits name, or a RuntimeClass that shows a pod all of them. Call with (dict "name" "gpu"
"worker" <the class>).
*/}}
{{- define "pisa.checkGpus" -}}
{{- $worker := .worker -}}
{{- $gpus := int $worker.gpus -}}
{{- $needed := 0 -}}
{{- range splitList "," $worker.devices }}{{ if hasPrefix "cuda:" . }}{{ $needed = max $needed (add1 (trimPrefix "cuda:" . | int)) }}{{ end }}{{ end -}}
{{- $elsewhere := $worker.runtimeClassName | default "" -}}
{{- range $resource, $_ := $worker.resources.limits }}{{ if contains "/" $resource }}{{ $elsewhere = $resource }}{{ end }}{{ end -}}
{{- if and (gt $needed $gpus) (or (gt $gpus 0) (not $elsewhere)) -}}
{{- fail (printf "workers.%s.devices (%s) needs gpus: %d, but workers.%s.gpus is %d: a pod has the GPUs that it asks for, and they are cuda:0, cuda:1 and so on. Where it gets them without asking for %s, leave gpus at 0 and set runtimeClassName, or name the resource in resources.limits." .name $worker.devices $needed .name $gpus $worker.gpuResource) -}}
{{- end -}}
{{- end -}}

{{/*
Annotations of a pod: those of the values, and which of its folders on the node's disk hold nothing to keep, as the cluster
autoscaler removes no node with others. Call with (dict "annotations" <from the values> "volumes" (list "tmp")).
*/}}
{{- define "pisa.podAnnotations" -}}
{{- $ours := dict -}}
{{- with .volumes }}{{ $_ := set $ours "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes" (join "," .) }}{{ end -}}
{{- with mustMergeOverwrite $ours (default dict .annotations) }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
The priority class of "api" (with Redis) or "worker". Kubernetes lets nobody change the number of a class, nor whether its pods
preempt others: so the number is in its name, and another number is another class.
Call with (dict "root" $ "for" "worker").
*/}}
{{- define "pisa.priorityClass" -}}
{{ .root.Release.Namespace }}-{{ include "pisa.name" .root }}-{{ .for }}-{{ index .root.Values.priorityClasses .for | int }}
{{- end -}}

{{- define "pisa.redisSecret" -}}
{{- if .Values.redis.internal.enabled -}}
{{ .Values.redis.internal.existingSecret | default (printf "%s-redis" (include "pisa.name" .)) }}
{{- else -}}
{{ .Values.redis.external.existingSecret }}
{{- end -}}
{{- end -}}

{{- define "pisa.redisSecretKey" -}}
{{- if .Values.redis.internal.enabled -}}{{ .Values.redis.internal.existingSecretKey }}{{- else -}}{{ .Values.redis.external.existingSecretKey }}{{- end -}}
{{- end -}}

{{- define "pisa.redisHost" -}}
{{- if .Values.redis.internal.enabled -}}
{{ include "pisa.name" . }}-redis.{{ .Release.Namespace }}.svc
{{- else -}}
{{ required "redis.external.host is needed where redis.internal.enabled is false: the host name of your Redis" .Values.redis.external.host }}
{{- end -}}
{{- end -}}

{{- define "pisa.redisPort" -}}
{{- if .Values.redis.internal.enabled -}}6379{{- else -}}{{ .Values.redis.external.port }}{{- end -}}
{{- end -}}

{{- define "pisa.redisDatabase" -}}
{{- if .Values.redis.internal.enabled -}}0{{- else -}}{{ .Values.redis.external.database }}{{- end -}}
{{- end -}}

{{- define "pisa.redisTls" -}}
{{- if and (not .Values.redis.internal.enabled) .Values.redis.external.tls.enabled -}}true{{- end -}}
{{- end -}}

{{- define "pisa.storage" -}}
{{- $storage := .Values.storage -}}
{{- if eq $storage.kind "folder" -}}
folder:/data/objects
{{- else if eq $storage.kind "s3" -}}
s3://{{ required "storage.s3.bucket is needed with storage.kind: s3" $storage.s3.bucket }}{{ with $storage.s3.prefix }}/{{ . }}{{ end }}
{{- else -}}
redis
{{- end -}}
{{- end -}}

{{/* Whether KEDA needs a TriggerAuthentication: for the password, the private authority, or both. */}}
{{- define "pisa.redisAuthentication" -}}
{{- if or (include "pisa.redisSecret" .) (include "pisa.redisCa" .) -}}true{{- end -}}
{{- end -}}

{{/* The Secret with the private authority of Redis, as {secret, key}; nothing where Redis needs none. */}}
{{- define "pisa.redisCa" -}}
{{- $tls := .Values.redis.external.tls -}}
{{- if include "pisa.redisTls" . -}}
{{- if $tls.caSecret -}}
{{ dict "secret" $tls.caSecret "key" $tls.caSecretKey | toYaml }}
{{- else if .Values.extraCa.secret -}}
{{ .Values.extraCa | toYaml }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* That with all private authorities, for our own processes. Node takes one file: the wider one. */}}
{{- define "pisa.extraCa" -}}
{{- if .Values.extraCa.secret -}}
{{ .Values.extraCa | toYaml }}
{{- else -}}
{{ include "pisa.redisCa" . }}
{{- end -}}
{{- end -}}

{{- define "pisa.extraCaEnv" -}}
{{- if include "pisa.extraCa" . }}
- { name: NODE_EXTRA_CA_CERTS, value: /etc/pisa/extra-ca/ca.crt }
{{- end }}
{{- end -}}

{{- define "pisa.extraCaMount" -}}
{{- if include "pisa.extraCa" . }}
- { name: extra-ca, mountPath: /etc/pisa/extra-ca, readOnly: true }
{{- end }}
{{- end -}}

{{/* The environment that api and workers share. REDIS_PASSWORD comes before REDIS_URL, which is made of it. */}}
{{- define "pisa.sharedEnv" -}}
{{- with include "pisa.redisSecret" . }}
- name: REDIS_PASSWORD
  valueFrom: { secretKeyRef: { name: {{ . }}, key: {{ include "pisa.redisSecretKey" $ }} } }
{{- end }}
- name: REDIS_URL
  value: "{{ if include "pisa.redisTls" . }}rediss{{ else }}redis{{ end }}://{{ if not .Values.redis.internal.enabled }}{{ .Values.redis.external.username }}{{ end }}{{ if include "pisa.redisSecret" . }}:$(REDIS_PASSWORD)@{{ else if and (not .Values.redis.internal.enabled) .Values.redis.external.username }}@{{ end }}{{ include "pisa.redisHost" . }}:{{ include "pisa.redisPort" . }}/{{ include "pisa.redisDatabase" . }}"
{{- include "pisa.extraCaEnv" . }}
- { name: STORAGE, value: {{ include "pisa.storage" . | quote }} }
{{- if eq .Values.storage.kind "s3" }}
{{- with .Values.storage.s3 }}
- { name: S3_REGION, value: {{ .region | quote }} }
{{- with .endpoint }}
- { name: S3_ENDPOINT, value: {{ . | quote }} }
{{- end }}
{{- with .existingSecret }}
- name: S3_ACCESS_KEY_ID
  valueFrom: { secretKeyRef: { name: {{ . }}, key: access-key-id } }
- name: S3_SECRET_ACCESS_KEY
  valueFrom: { secretKeyRef: { name: {{ . }}, key: secret-access-key } }
{{- end }}
{{- end }}
{{- end }}
- { name: HOST, value: {{ .Values.pod.host | quote }} }
- { name: MODEL, value: {{ .Values.models.default | quote }} }
- { name: JOB_TIMEOUT_SECONDS, value: {{ .Values.jobTimeoutSeconds | int | quote }} }
- { name: TMPDIR, value: /tmp }
- { name: DATA_DIR, value: /tmp/data }
{{- end -}}

{{/*
Where downloaded models are. Each set of them has a folder of its own, named after its digests: on a claim, old and new
workers run side by side while they are replaced, and neither may change the files of the other. It is below the mount,
not a subPath, which the kubelet would make as root; the first init container makes it, as our own user.
*/}}
{{- define "pisa.modelsDir" -}}
{{- $digests := list -}}
{{- range .Values.models.download }}{{ $digests = append $digests .sha256 }}{{ end -}}
/models/{{ $digests | uniq | sortAlpha | join " " | sha256sum | trunc 16 }}
{{- end -}}

{{/*
Settings that the user chose by name. Later maps win. Call with a list of maps. As JSON a number stays as it was
written: 0.1 is not cut to 0, and 67108864 does not become 6.7108864e+07, as in text it would.
*/}}
{{- define "pisa.configEnv" -}}
{{- $all := dict -}}
{{- range . }}{{- $all = mustMergeOverwrite $all (deepCopy (default dict .)) -}}{{- end }}
{{- range $name, $value := $all }}
- { name: {{ $name }}, value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }} }
{{- end }}
{{- end -}}

{{- define "pisa.sharedMounts" -}}
- { name: tmp, mountPath: /tmp }
{{- if eq .Values.storage.kind "folder" }}
- { name: data, mountPath: /data }
{{- end }}
{{- include "pisa.extraCaMount" . }}
{{- end -}}

{{- define "pisa.sharedVolumes" -}}
{{- if eq .Values.storage.kind "folder" }}
- name: data
  persistentVolumeClaim: { claimName: {{ .Values.storage.folder.existingClaim | default (printf "%s-data" (include "pisa.name" .)) }} }
{{- end }}
{{- with include "pisa.extraCa" . | fromYaml }}
- name: extra-ca
  secret:
    secretName: {{ .secret }}
    items: [{ key: {{ .key }}, path: ca.crt }]
{{- end }}
{{- end -}}

{{/* The restricted Pod Security Standard, and a root that nobody writes to. */}}
{{- define "pisa.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.pod.user }}
runAsGroup: {{ .Values.pod.user }}
fsGroup: {{ .Values.pod.user }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "pisa.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{/* Call with (dict "root" $ "component" "api"). */}}
{{- define "pisa.topologySpread" -}}
{{- if .root.Values.topologySpread }}
topologySpreadConstraints:
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - topologyKey: {{ $key }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "pisa.selector" $.root | nindent 8 }}
        app.kubernetes.io/component: {{ $.component }}
    # Only among pods of the same version: a rollout must not unbalance what it leaves.
    matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}
{{- end -}}

{{- define "pisa.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* A Secret's value that stays over upgrades. Call with (dict "root" $ "name" … "key" … "make" <value if new>); gives base64. */}}
{{- define "pisa.keptSecret" -}}
{{- $there := lookup "v1" "Secret" .root.Release.Namespace .name -}}
{{- if and $there (hasKey (default dict $there.data) .key) -}}
{{ index $there.data .key }}
{{- else -}}
{{ .make | b64enc }}
{{- end -}}
{{- end -}}

{{- define "pisa.apiKeySecret" -}}
{{ .Values.apiKeys.existingSecret | default (printf "%s-api-keys" (include "pisa.name" .)) }}
{{- end -}}

{{/* Parts of the NetworkPolicies. */}}
{{- define "pisa.dnsEgress" -}}
- ports: [{ port: 53, protocol: UDP }, { port: 53, protocol: TCP }]
{{- end -}}

{{- define "pisa.anyOf" -}}
{{- if . }}
to:
{{- range . }}
  - ipBlock: { cidr: {{ . }} }
{{- end }}
{{- end }}
{{- end -}}

{{/* The public network, and nothing of the cluster's. Call with the values of networkPolicy. */}}
{{- define "pisa.publicNetwork" -}}
to:
{{- $blocked := .blockedRanges }}
{{- range $cidr, $colon := dict "0.0.0.0/0" false "2000::/3" true }}
  - ipBlock:
      cidr: {{ $cidr | quote }}
      {{- $except := list }}
      {{- range $blocked }}{{ if eq (contains ":" .) $colon }}{{ $except = append $except . }}{{ end }}{{ end }}
      {{- with $except }}
      except: {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end }}
{{- end -}}

{{/* Where S3 and model downloads are. Call with the values of networkPolicy. */}}
{{- define "pisa.storageNetwork" -}}
{{- if .storageRanges -}}
{{- include "pisa.anyOf" .storageRanges -}}
{{- else -}}
{{- include "pisa.publicNetwork" . -}}
{{- end -}}
{{- end -}}

{{/*
Refuses an address of S3 or of a model that is not public, where no policy opens the way to it. A private address that has
a public name is not known as such. Call with (dict "name" <of the value> "url" … "opened" <whether rules of one's own may>).
*/}}
{{- define "pisa.checkReachable" -}}
{{- $host := (urlParse .url).hostname | default "" | lower -}}
{{- $private := "^[^.:]+$|[.](svc|local|internal)$|[.]svc[.]|^(10|127|169[.]254|192[.]168|172[.](1[6-9]|2[0-9]|3[01])|100[.](6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-7]))[.][0-9.]+$|^(::1|f[cde][0-9a-f]*:.*)$" -}}
{{- if and (regexMatch $private $host) (not .opened) -}}
{{- fail (printf "%s (%s) is no public address, and the NetworkPolicies open those only: set networkPolicy.storageRanges to its addresses, whatever blockedRanges leaves open (in the cluster those of its pods), or let networkPolicy.workerEgress and, for S3, networkPolicy.apiEgress name its pods and port." .name .url) -}}
{{- end -}}
{{- end -}}

{{- define "pisa.sharedEgress" -}}
{{- include "pisa.dnsEgress" . }}
{{- if .Values.redis.internal.enabled }}
- to:
    - podSelector:
        matchLabels: {{- include "pisa.selector" . | nindent 10 }}
          app.kubernetes.io/component: redis
  ports: [{ port: 6379 }]
{{- else }}
- ports: [{ port: {{ .Values.redis.external.port }} }]
  {{- include "pisa.anyOf" .Values.networkPolicy.redisRanges | nindent 2 }}
{{- end }}
{{- if eq .Values.storage.kind "s3" }}
- ports: [{ port: {{ include "pisa.urlPort" .Values.storage.s3.endpoint }} }]
  {{- include "pisa.storageNetwork" .Values.networkPolicy | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The port of a URL, or that of its scheme. Empty is https. */}}
{{- define "pisa.urlPort" -}}
{{- $url := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" (default "" $url.host) | trimPrefix ":" -}}
{{ $port | default (eq (default "https" $url.scheme) "http" | ternary "80" "443") }}
{{- end -}}
