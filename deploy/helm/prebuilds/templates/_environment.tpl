{{/* What a process is told: settings, secrets by reference, and the files with passwords and certificates. */}}

{{- define "prebuilds.secretsFolder" -}}/run/secrets/prebuilds{{- end -}}

{{/* The settings that all processes have, as a map. */}}
{{- define "prebuilds.settings" -}}
{{- if not .Values.temporal.address -}}
{{- fail "temporal.address is empty: name Temporal's frontend, such as temporal-frontend.temporal.svc:7233" -}}
{{- end -}}
{{- $folder := include "prebuilds.secretsFolder" . -}}
{{- $temporal := .Values.temporal -}}
{{- range $name, $value := .Values.config }}
{{ $name }}: {{ include "prebuilds.text" $value }}
{{- end }}
TEMPORAL_ADDRESS: {{ $temporal.address | quote }}
TEMPORAL_NAMESPACE: {{ $temporal.namespace | quote }}
{{- if $temporal.ui }}
PREBUILDS_TEMPORAL_UI: {{ $temporal.ui | quote }}
{{- end }}
{{- if $temporal.tls.enabled }}
TEMPORAL_TLS: "true"
{{- with $temporal.tls.serverName }}
TEMPORAL_TLS_SERVER_NAME: {{ . | quote }}
{{- end }}
{{- if $temporal.tls.existingSecret }}
{{- if $temporal.tls.ca }}
TEMPORAL_TLS_SERVER_CA_CERT_PATH: {{ $folder }}/temporal/ca.crt
{{- end }}
{{- if $temporal.tls.cert }}
TEMPORAL_TLS_CLIENT_CERT_PATH: {{ $folder }}/temporal/tls.crt
TEMPORAL_TLS_CLIENT_KEY_PATH: {{ $folder }}/temporal/tls.key
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.database.tls }}
{{- if .existingSecret }}
{{- if .ca }}
PGSSLROOTCERT: {{ $folder }}/database/ca.crt
{{- end }}
{{- if .cert }}
PGSSLCERT: {{ $folder }}/database/tls.crt
PGSSLKEY: {{ $folder }}/database/tls.key
{{- end }}
{{- end }}
{{- end }}
PREBUILDS_STATE_DIR: /var/lib/prebuilds
PREBUILDS_METRICS_HOST: {{ .Values.listenAddress | quote }}
PREBUILDS_METRICS_PORT: "9464"
{{- end -}}

{{/* Who (list $ role) is to the database: worker, server or owner. */}}
{{- define "prebuilds.databaseRole" -}}
{{- $root := index . 0 -}}
{{- $role := get $root.Values.database (index . 1) -}}
{{- if not (or $role.user $role.urlSecret.name) -}}
{{- $role = $root.Values.database.worker -}}
{{- end -}}
{{- if not (or $role.urlSecret.name $root.Values.database.url) -}}
{{- fail "database.url is empty: name the database, such as postgresql://db.example.com:5432/prebuilds?sslmode=verify-full, or a urlSecret" -}}
{{- end -}}
{{- toYaml $role -}}
{{- end -}}

{{/* The variables of a container that differ between processes or come from Secrets: (dict root databaseRole config webhook extraEnv). */}}
{{- define "prebuilds.env" -}}
{{- $values := .root.Values -}}
{{- $role := include "prebuilds.databaseRole" (list .root .databaseRole) | fromYaml -}}
{{- if $role.urlSecret.name }}
- name: PREBUILDS_DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ $role.urlSecret.name }}, key: {{ $role.urlSecret.key }}}}
{{- else }}
- name: PREBUILDS_DATABASE_URL
  value: {{ $values.database.url | quote }}
- name: PGUSER
  value: {{ $role.user | quote }}
{{- if $role.passwordSecret.name }}
- name: PREBUILDS_DATABASE_PASSWORD_FILE
  value: {{ include "prebuilds.secretsFolder" .root }}/database/password
{{- end }}
{{- end }}
{{- range $name, $secret := dict "PREBUILDS_STATE_KEY" $values.stateKeySecret "PREBUILDS_PAYLOAD_KEY" $values.payloadKeySecret "TEMPORAL_API_KEY" $values.temporal.apiKeySecret }}
{{- if $secret.name }}
- name: {{ $name }}
  valueFrom: {secretKeyRef: {name: {{ $secret.name }}, key: {{ $secret.key }}}}
{{- end }}
{{- end }}
{{- if .webhook }}
{{- range $name, $secret := dict "PREBUILDS_WEBHOOK_URL" $values.webhookUrlSecret "PREBUILDS_WEBHOOK_SECRET" $values.webhookSigningSecret }}
{{- if $secret.name }}
- name: {{ $name }}
  valueFrom: {secretKeyRef: {name: {{ $secret.name }}, key: {{ $secret.key }}}}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $value := .config }}
- name: {{ $name }}
  value: {{ include "prebuilds.text" $value }}
{{- end }}
{{- with .extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The files with the database's password and with certificates: (list $ role). One volume of several Secrets, whose files
change when the Secrets do. */}}
{{- define "prebuilds.secretSources" -}}
{{- $values := (index . 0).Values -}}
{{- $role := include "prebuilds.databaseRole" . | fromYaml -}}
{{- if and $role.passwordSecret.name (not $role.urlSecret.name) }}
- secret:
    name: {{ $role.passwordSecret.name }}
    items: [{key: {{ $role.passwordSecret.key }}, path: database/password}]
{{- end }}
{{- $temporal := dict }}
{{- if $values.temporal.tls.enabled }}
{{- $temporal = $values.temporal.tls }}
{{- end }}
{{- range $folder, $tls := dict "database" $values.database.tls "temporal" $temporal }}
{{- if and $tls.existingSecret (or $tls.ca $tls.cert) }}
{{- if and $tls.cert (not $tls.key) }}
{{- fail (printf "%s.tls.key is empty: a certificate needs the key of the Secret that has its private key" $folder) }}
{{- end }}
- secret:
    name: {{ $tls.existingSecret }}
    items:
      {{- if $tls.ca }}
      - {key: {{ $tls.ca }}, path: {{ $folder }}/ca.crt}
      {{- end }}
      {{- if $tls.cert }}
      - {key: {{ $tls.cert }}, path: {{ $folder }}/tls.crt}
      - {key: {{ $tls.key }}, path: {{ $folder }}/tls.key}
      {{- end }}
{{- end }}
{{- end }}
{{- end -}}
