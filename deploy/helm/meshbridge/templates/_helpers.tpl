{{- define "meshbridge.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "meshbridge.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "meshbridge.selectorLabels" -}}
app.kubernetes.io/name: {{ include "meshbridge.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: bridge
{{- end -}}

{{- define "meshbridge.labels" -}}
{{ include "meshbridge.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "meshbridge.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "meshbridge.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "meshbridge.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* How many bridges there are. */}}
{{- define "meshbridge.replicas" -}}
{{- if eq .Values.mode "sharded" -}}{{ int .Values.shards }}{{- else if eq .Values.mode "pair" -}}2{{- else -}}1{{- end -}}
{{- end -}}

{{/* What values.schema.json can't say. */}}
{{- define "meshbridge.validate" -}}
{{- $bridges := int (include "meshbridge.replicas" .) -}}
{{- if and (ne .Values.mode "single") (ne .Values.workload "StatefulSet") -}}
{{- fail (printf "mode %s needs workload StatefulSet" .Values.mode) -}}
{{- end -}}
{{- if and (gt $bridges 1) .Values.persistence.existingClaim -}}
{{- fail "persistence.existingClaim is for one bridge: two can't share a journal" -}}
{{- end -}}
{{- if gt $bridges 1 -}}
{{- range $name, $sink := .Values.config.sinks -}}
{{- if $sink.client_id -}}
{{- fail (printf "config.sinks.%s.client_id: two bridges with one client id evict each other; leave it out" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.mode "sharded") (gt $bridges (len (default dict .Values.config.daemons))) -}}
{{- fail (printf "shards: %d bridges for %d daemons; some would have nothing to do" $bridges (len (default dict .Values.config.daemons))) -}}
{{- end -}}
{{- range $place, $named := dict "daemons" .Values.config.daemons "sinks" .Values.config.sinks -}}
{{- range $name, $one := $named -}}
{{- range $key := list "password" "token" "totp_secret" "secret" -}}
{{- if hasKey $one $key -}}
{{- fail (printf "config.%s.%s.%s: config becomes a ConfigMap, where a secret does not belong; use existingSecrets (key meshbridge_%s__%s__%s) or credentials" $place $name $key $place (replace "-" "_" $name) $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.sidecar.enabled (not .Values.sidecar.containers) -}}
{{- fail "sidecar.containers: name the containers that the bridge runs beside" -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled .Values.podMonitor.enabled -}}
{{- fail "serviceMonitor and podMonitor are both enabled: everything would be scraped twice" -}}
{{- end -}}
{{- end -}}

{{/*
The configuration of one bridge: of all daemons, or of those of a shard, given as (dict "root" . "shard" 0).
All pods of a StatefulSet have the same Secrets, and a secret for a daemon that a bridge does not have is an error. So a
shard names its own files of secrets, and is not told to look for more.
*/}}
{{- define "meshbridge.config" -}}
{{- $root := .root -}}
{{- $config := deepCopy $root.Values.config -}}
{{- if hasKey . "shard" -}}
{{- $daemons := dict -}}
{{- $shard := .shard -}}
{{- range $index, $name := keys $config.daemons | sortAlpha -}}
{{- if eq (mod $index (int $root.Values.shards)) $shard -}}
{{- $daemon := get $config.daemons $name -}}
{{- if not (or $daemon.password_file $daemon.token_file $daemon.oidc) -}}
{{- $_ := set $daemon "password_file" (printf "/etc/meshbridge/credentials/meshbridge_daemons__%s__password" (replace "-" "_" $name)) -}}
{{- end -}}
{{- $_ := set $daemons $name $daemon -}}
{{- end -}}
{{- end -}}
{{- $_ := set $config "daemons" $daemons -}}
{{- end -}}
{{- $_ := set $config "journal" (mergeOverwrite (default dict $config.journal) (dict "path" "/var/lib/meshbridge")) -}}
{{- $_ := set $config "exporter" (mergeOverwrite (dict "listen" (printf "0.0.0.0:%d" (int $root.Values.service.port))) (default dict $config.exporter)) -}}
{{- toYaml $config -}}
{{- end -}}

{{- define "meshbridge.configFiles" -}}
{{- if eq .Values.mode "sharded" }}
{{- range $shard := until (int .Values.shards) }}
{{ $shard }}.yaml: |
  {{- include "meshbridge.config" (dict "root" $ "shard" $shard) | nindent 2 }}
{{- end }}
{{- else }}
meshbridge.yaml: |
  {{- include "meshbridge.config" (dict "root" .) | nindent 2 }}
{{- end }}
{{- range $name, $content := .Values.files }}
{{ $name }}: |
  {{- $content | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The bridge's container, as an item of a list. */}}
{{- define "meshbridge.container" -}}
- name: meshbridge
  image: {{ include "meshbridge.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args: [run]
  env:
    {{- if eq .Values.mode "sharded" }}
    - name: POD_INDEX
      valueFrom: {fieldRef: {fieldPath: "metadata.labels['apps.kubernetes.io/pod-index']"}}
    {{- end }}
    - name: MESHBRIDGE_CONFIG
      value: /etc/meshbridge/config/{{ if eq .Values.mode "sharded" }}$(POD_INDEX){{ else }}meshbridge{{ end }}.yaml
    {{- if and (include "meshbridge.hasCredentials" .) (ne .Values.mode "sharded") }}
    - name: CREDENTIALS_DIRECTORY
      value: /etc/meshbridge/credentials
    {{- end }}
    {{- with .Values.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.envFrom }}
  envFrom:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    - name: metrics
      containerPort: {{ .Values.service.port }}
      protocol: TCP
  startupProbe:
    {{- include "meshbridge.probe" (list . "/-/healthy") | nindent 4 }}
    periodSeconds: 1
    timeoutSeconds: 5
    failureThreshold: 120
  livenessProbe:
    {{- include "meshbridge.probe" (list . "/-/healthy") | nindent 4 }}
    periodSeconds: 30
    timeoutSeconds: 5
    failureThreshold: 3
  readinessProbe:
    {{- include "meshbridge.probe" (list . "/-/ready") | nindent 4 }}
    periodSeconds: 10
    timeoutSeconds: 5
  {{- with .Values.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.securityContext | nindent 4 }}
  volumeMounts:
    - {name: meshbridge-config, mountPath: /etc/meshbridge/config, readOnly: true}
    - {name: meshbridge-journal, mountPath: /var/lib/meshbridge}
    - {name: meshbridge-tmp, mountPath: /tmp}
    {{- if include "meshbridge.hasCredentials" . }}
    - {name: meshbridge-credentials, mountPath: /etc/meshbridge/credentials, readOnly: true}
    {{- end }}
    {{- with .Values.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{- define "meshbridge.probe" -}}
{{- $root := index . 0 -}}
{{- if $root.Values.probes.exec -}}
exec: {command: [meshbridge, healthcheck]}
{{- else -}}
httpGet: {path: {{ index . 1 }}, port: metrics, scheme: {{ $root.Values.probes.scheme }}}
{{- end -}}
{{- end -}}

{{- define "meshbridge.hasCredentials" -}}
{{- if or .Values.existingSecrets .Values.credentials -}}true{{- end -}}
{{- end -}}

{{/* The volumes of the bridge's container, but for a journal that comes from a StatefulSet's claim. */}}
{{- define "meshbridge.volumes" -}}
- name: meshbridge-config
  configMap: {name: {{ include "meshbridge.fullname" . }}}
- name: meshbridge-tmp
  emptyDir: {sizeLimit: 64Mi}
{{- if include "meshbridge.hasCredentials" . }}
- name: meshbridge-credentials
  projected:
    # Readable for the group, which is fsGroup.
    defaultMode: 0440
    sources:
      {{- range .Values.existingSecrets }}
      - secret: {name: {{ . | quote }}}
      {{- end }}
      {{- with .Values.credentials }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "meshbridge.journalVolume" -}}
{{- if .Values.persistence.existingClaim -}}
- name: meshbridge-journal
  persistentVolumeClaim: {claimName: {{ .Values.persistence.existingClaim | quote }}}
{{- else if and .Values.persistence.enabled (eq .Values.workload "Deployment") -}}
- name: meshbridge-journal
  persistentVolumeClaim: {claimName: {{ include "meshbridge.fullname" . }}}
{{- else -}}
- name: meshbridge-journal
  emptyDir: {sizeLimit: {{ .Values.persistence.size }}}
{{- end -}}
{{- end -}}

{{/*
For other charts, which have this one as a dependency with workload: None. In a pod's spec:

  initContainers:
    {{- include "meshbridge.sidecar.container" .Subcharts.meshbridge | nindent 4 }}
  volumes:
    {{- include "meshbridge.sidecar.volumes" .Subcharts.meshbridge | nindent 4 }}

and in its metadata, so that a changed configuration restarts it:

  annotations: {{- include "meshbridge.sidecar.annotations" .Subcharts.meshbridge | nindent 4 }}
*/}}
{{- define "meshbridge.sidecar.container" -}}
{{ include "meshbridge.container" . }}
  restartPolicy: Always
{{- end -}}

{{- define "meshbridge.sidecar.volumes" -}}
{{ include "meshbridge.volumes" . }}
{{ include "meshbridge.journalVolume" . }}
{{- end -}}

{{- define "meshbridge.sidecar.annotations" -}}
checksum/meshbridge: {{ include "meshbridge.configFiles" . | sha256sum }}
{{- end -}}

{{- define "meshbridge.podTemplate" -}}
metadata:
  labels:
    {{- include "meshbridge.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    {{- include "meshbridge.sidecar.annotations" . | nindent 4 }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "meshbridge.serviceAccountName" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . | quote }}
    {{- end }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  {{- if .Values.sidecar.enabled }}
  initContainers:
    {{- include "meshbridge.sidecar.container" . | nindent 4 }}
  containers:
    {{- toYaml .Values.sidecar.containers | nindent 4 }}
  {{- else }}
  containers:
    {{- include "meshbridge.container" . | nindent 4 }}
  {{- end }}
  volumes:
    {{- include "meshbridge.volumes" . | nindent 4 }}
    {{- if or (ne .Values.workload "StatefulSet") (not .Values.persistence.enabled) .Values.persistence.existingClaim }}
    {{- include "meshbridge.journalVolume" . | nindent 4 }}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .Values.affinity }}
  affinity:
    {{- toYaml .Values.affinity | nindent 4 }}
  {{- else if ne .Values.mode "single" }}
  affinity:
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
        - weight: 100
          podAffinityTerm:
            topologyKey: kubernetes.io/hostname
            labelSelector:
              matchLabels:
                {{- include "meshbridge.selectorLabels" . | nindent 16 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "meshbridge.claimSpec" -}}
accessModes:
  {{- toYaml .Values.persistence.accessModes | nindent 2 }}
{{- with .Values.persistence.storageClass }}
storageClassName: {{ . | quote }}
{{- end }}
resources:
  requests: {storage: {{ .Values.persistence.size }}}
{{- end -}}

{{/* One port a line: where the daemons and sinks of the configuration listen. A service of notify is at 443, as a rule. */}}
{{- define "meshbridge.egressPorts" -}}
{{- $defaults := dict "tcp" 6059 "wss" 6058 "https" 443 "http" 80 "mqtt" 1883 "mqtts" 8883 "ws" 80 "nats" 4222 "tls" 4222 "redis" 6379 "rediss" 6379 "amqp" 5672 "amqps" 5671 "udp" 514 -}}
{{- $ports := dict -}}
{{- range $place, $named := dict "daemons" .Values.config.daemons "sinks" .Values.config.sinks -}}
{{- range $name, $one := $named -}}
{{- $isNotify := eq ($one.type | toString) "notify" -}}
{{- if and $isNotify (not (kindIs "string" $one.url)) -}}{{- $_ := set $ports "443" true -}}{{- end -}}
{{- if kindIs "string" $one.url -}}
{{- $parts := urlParse $one.url -}}
{{- $port := regexFind ":[0-9]+$" $parts.host | trimPrefix ":" -}}
{{- if and (not $port) (eq $place "daemons") (eq $parts.scheme "https") -}}{{- $port = "6060" -}}{{- end -}}
{{- if and (not $port) (eq $place "sinks") (eq $parts.scheme "wss") -}}{{- $port = "443" -}}{{- end -}}
{{- if and (not $port) (eq ($one.type | toString) "syslog") -}}{{- $port = ternary "6514" "514" (eq $parts.scheme "tls") -}}{{- end -}}
{{- if not $port -}}{{- $port = get $defaults $parts.scheme | toString -}}{{- end -}}
{{- if and (not $port) $isNotify -}}{{- $port = get (dict "mailto" "25" "mailtos" "587" "json" "80" "xml" "80" "form" "80") $parts.scheme | default "443" -}}{{- end -}}
{{- if $port -}}{{- $_ := set $ports $port true -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- keys $ports | sortAlpha | join "\n" -}}
{{- end -}}
