{{- define "orders.name" -}}
{{- if contains "orders" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-orders" (.Release.Name | trunc 33 | trimSuffix "-") }}{{ end }}
{{- end }}

{{/* Arguments: the root and the name of the program. */}}
{{- define "orders.selector" -}}
app.kubernetes.io/name: orders
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .program }}
{{- end }}

{{- define "orders.metadata" -}}
name: {{ include "orders.name" .root }}-{{ .program }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "orders.selector" . | nindent 2 }}
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .root.Release.Service }}
  helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "orders.selectorOfPods" -}}
selector:
  matchLabels:
    {{- include "orders.selector" . | nindent 4 }}
{{- end }}

{{- define "orders.image" -}}
{{ .root.Values.image.repository }}:{{ .tag | default .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* What all pods have. Nothing here calls the API of Kubernetes. */}}
{{- define "orders.pod" -}}
automountServiceAccountToken: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: { type: RuntimeDefault }
{{- with .Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "orders.spread" -}}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "orders.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}

{{- define "orders.container" -}}
image: {{ include "orders.image" . }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end }}

{{/* Argument: a list of dictionaries of variables; a later one wins. */}}
{{- define "orders.variables" -}}
{{- $all := dict }}
{{- range . }}{{ $all = mergeOverwrite $all (deepCopy .) }}{{ end }}
{{- range $name, $value := $all }}
- name: {{ $name }}
  {{- /* Helm reads whole numbers as floating-point numbers, and would print large ones with an exponent. */}}
  {{- $whole := and (kindIs "float64" $value) (eq (float64 (int64 $value)) $value) }}
  value: {{ $whole | ternary (int64 $value | toString) (toString $value) | quote }}
{{- end }}
{{- end }}

{{- define "orders.secret" -}}
- name: {{ .variable }}
  valueFrom: { secretKeyRef: { name: {{ .secret.name }}, key: {{ .secret.key }} } }
{{- end }}

{{/* The variables of the api and the projector: the stores, and where to listen. */}}
{{- define "orders.common" -}}
LOG_FORMAT: json
REDIS_URL: {{ required "redis.url is required" .Values.redis.url | quote }}
QUEUE_URL: {{ required "queue.url is required" .Values.queue.url | quote }}
AWS_REGION: {{ required "aws.region is required" .Values.aws.region | quote }}
{{- with .Values.redis.username }}
REDIS_USERNAME: {{ . | quote }}
{{- end }}
{{- if .Values.redis.caSecret.name }}
REDIS_CA_FILE: /run/secrets/redis/{{ .Values.redis.caSecret.key }}
{{- end }}
{{- if .Values.metrics.enabled }}
METRICS_ADDR: 0.0.0.0:9464
{{- end }}
{{- end }}

{{- define "orders.database" -}}
DATABASE_URL: {{ required "database.url is required" .Values.database.url | quote }}
{{- if .Values.database.passwordSecret.name }}
DATABASE_PASSWORD_FILE: /run/secrets/database/{{ .Values.database.passwordSecret.key }}
{{- end }}
{{- end }}

{{- define "orders.secrets" -}}
{{- with .Values.redis.passwordSecret }}{{ if .name }}
{{ include "orders.secret" (dict "variable" "REDIS_PASSWORD" "secret" .) }}
{{- end }}{{ end }}
{{- with .Values.aws.credentialsSecret }}
{{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
{{ include "orders.secret" (dict "variable" . "secret" (dict "name" $.Values.aws.credentialsSecret "key" .)) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Arguments: the root, and which of the stores the program reaches. */}}
{{- define "orders.mounts" -}}
{{- $files := dict }}
{{- if and .database .root.Values.database.passwordSecret.name }}{{ $_ := set $files "database" .root.Values.database.passwordSecret }}{{ end }}
{{- if and .redis .root.Values.redis.caSecret.name }}{{ $_ := set $files "redis" .root.Values.redis.caSecret }}{{ end }}
{{- toYaml $files }}
{{- end }}

{{- define "orders.volumeMounts" -}}
{{- with include "orders.mounts" . | fromYaml }}
volumeMounts:
  {{- range $name, $secret := . }}
  - { name: {{ $name }}, mountPath: /run/secrets/{{ $name }}, readOnly: true }
  {{- end }}
{{- end }}
{{- end }}

{{- define "orders.volumes" -}}
{{- with include "orders.mounts" . | fromYaml }}
volumes:
  {{- range $name, $secret := . }}
  - name: {{ $name }}
    secret: { secretName: {{ $secret.name }}, defaultMode: 0440, items: [{ key: {{ $secret.key }}, path: {{ $secret.key }} }] }
  {{- end }}
{{- end }}
{{- end }}

{{- define "orders.probes" -}}
# At start a program waits for its stores.
startupProbe:
  httpGet: { path: /health/live, port: http }
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: { path: /health/live, port: http }
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: { path: /health/ready, port: http }
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
{{- end }}

{{- define "orders.ports" -}}
ports:
  - { name: http, containerPort: {{ .port }} }
  {{- if .root.Values.metrics.enabled }}
  - { name: metrics, containerPort: 9464 }
  {{- end }}
{{- end }}

{{- define "orders.budget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "orders.metadata" . | nindent 2 }}
spec:
  maxUnavailable: 1
  {{- include "orders.selectorOfPods" . | nindent 2 }}
{{- end }}

{{- define "orders.scaleByProcessor" -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "orders.metadata" . | nindent 2 }}
spec:
  scaleTargetRef: { apiVersion: apps/v1, kind: Deployment, name: {{ include "orders.name" .root }}-{{ .program }} }
  minReplicas: {{ .scaling.minReplicas }}
  maxReplicas: {{ .scaling.maxReplicas }}
  metrics:
    - type: Resource
      resource: { name: cpu, target: { type: Utilization, averageUtilization: {{ .scaling.cpuPercent }} } }
{{- end }}
