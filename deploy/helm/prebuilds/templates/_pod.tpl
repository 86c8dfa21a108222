{{/* A Pod of any kind: all run the same image, as an ordinary user who can write nowhere but in volumes. */}}

{{- define "prebuilds.podSecurity" -}}
runAsNonRoot: true
{{- range $name, $value := .Values.podSecurityContext }}
{{- if not (kindIs "invalid" $value) }}
{{ $name }}: {{ include "prebuilds.text" $value | trimAll "\"" }}
{{- end }}
{{- end }}
{{- if (.Values.podSecurityContext | default dict).fsGroup }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "prebuilds.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* The volumes of (list $ databaseRole extraVolumes). */}}
{{- define "prebuilds.volumes" -}}
- name: tmp
  emptyDir: {}
{{- with include "prebuilds.secretSources" (list (index . 0) (index . 1)) | trim }}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      {{- . | nindent 6 }}
{{- end }}
{{- with index . 2 }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "prebuilds.volumeMounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if include "prebuilds.secretSources" (list (index . 0) (index . 1)) | trim }}
- {name: secrets, mountPath: {{ include "prebuilds.secretsFolder" (index . 0) }}, readOnly: true}
{{- end }}
{{- with index . 2 }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The template of a workload's Pods: (dict root component workload args databaseRole), and for some also webhook, env, image,
account, state and http. */}}
{{- define "prebuilds.podTemplate" -}}
{{- $root := .root -}}
{{- $workload := .workload -}}
{{- $selector := printf "%s\napp.kubernetes.io/component: %s" (include "prebuilds.selectorLabels" $root) .component -}}
metadata:
  annotations:
    # Pods are replaced when a setting changes.
    checksum/settings: {{ include "prebuilds.settings" $root | sha256sum }}
    {{- with $workload.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  labels:
    {{- include "prebuilds.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
    {{- with $workload.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ .account | default (include "prebuilds.serviceAccountName" $root) }}
  automountServiceAccountToken: {{ $workload.automountServiceAccountToken | default false }}
  enableServiceLinks: false
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  terminationGracePeriodSeconds: {{ $workload.terminationGracePeriodSeconds }}
  {{- with $workload.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    {{- include "prebuilds.podSecurity" $root | nindent 4 }}
  containers:
    - name: prebuilds
      image: {{ include "prebuilds.image" (list $root .image) | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      # `args` alone, so that the image's entrypoint stays: an init that reaps what workspaces leave behind.
      args: {{ toJson (concat (list "prebuilds") .args) }}
      securityContext:
        {{- include "prebuilds.containerSecurity" $root | nindent 8 }}
      envFrom:
        - configMapRef: {name: {{ include "prebuilds.fullname" $root }}}
        {{- with $workload.extraEnvFrom }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      env:
        {{- include "prebuilds.env" (dict "root" $root "databaseRole" .databaseRole "webhook" .webhook "config" (merge (.env | default dict) ($workload.config | default dict)) "extraEnv" $workload.extraEnv) | trim | nindent 8 }}
      ports:
        - {name: metrics, containerPort: 9464}
        {{- if .http }}
        - {name: http, containerPort: 8080}
        {{- end }}
      startupProbe: # a worker ends by itself where it cannot reach the database or Temporal
        httpGet: {path: /healthz, port: {{ ternary "http" "metrics" (.http | default false) }}}
        periodSeconds: 2
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /healthz, port: {{ ternary "http" "metrics" (.http | default false) }}}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: {{ ternary "/readyz" "/healthz" (.http | default false) }}, port: {{ ternary "http" "metrics" (.http | default false) }}}
        periodSeconds: 5
        timeoutSeconds: 5
      {{- if .http }}
      lifecycle:
        preStop:
          exec: {command: [sleep, {{ $root.Values.http.preStopSeconds | toString | quote }}]}
      {{- end }}
      resources:
        {{- toYaml $workload.resources | nindent 8 }}
      volumeMounts:
        {{- if .state }}
        - {name: state, mountPath: /var/lib/prebuilds}
        {{- end }}
        {{- include "prebuilds.volumeMounts" (list $root .databaseRole $workload.extraVolumeMounts) | nindent 8 }}
  volumes:
    {{- include "prebuilds.volumes" (list $root .databaseRole $workload.extraVolumes) | nindent 4 }}
  {{- with $workload.topologySpreadKeys }}
  topologySpreadConstraints:
    {{- range . }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- $selector | nindent 10 }}
    {{- end }}
  {{- end }}
  {{- with $workload.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $workload.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $workload.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
