{{/* Names and labels. */}}

{{- define "prebuilds.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The labels by which Services and policies find Pods. They never change: a Deployment's selector cannot. */}}
{{- define "prebuilds.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "prebuilds.labels" -}}
{{ include "prebuilds.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "prebuilds.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "prebuilds.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The image of `image`, where (list $ image) may say otherwise. */}}
{{- define "prebuilds.image" -}}
{{- $root := index . 0 -}}
{{- $own := index . 1 | default dict -}}
{{- $repository := $own.repository | default $root.Values.image.repository -}}
{{- if not $repository -}}
{{- fail "image.repository is empty: build the image (docker build --tag REGISTRY/prebuilds .), push it, and name it here" -}}
{{- end -}}
{{- $digest := $own.digest -}}
{{- if and (not $own.repository) (not $own.tag) (not $own.digest) -}}
{{- $digest = $root.Values.image.digest -}}
{{- end -}}
{{- if $digest -}}
{{- printf "%s@%s" $repository $digest -}}
{{- else -}}
{{- printf "%s:%s" $repository ($own.tag | default $root.Values.image.tag | default $root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* The values of one workload: (list $ section ...) over `defaults`, the last one first. */}}
{{- define "prebuilds.workload" -}}
{{- $root := first . -}}
{{- $found := deepCopy $root.Values.defaults -}}
{{- range rest . -}}
{{- $found = include "prebuilds.over" (list $found (. | default dict)) | fromYaml -}}
{{- end -}}
{{- toYaml $found -}}
{{- end -}}

{{/* The second map over the first one, level by level. Sprig's `mergeOverwrite` would keep what is false or empty there. */}}
{{- define "prebuilds.over" -}}
{{- $found := deepCopy (index . 0) -}}
{{- range $name, $value := index . 1 -}}
{{- $before := get $found $name -}}
{{- if and (kindIs "map" $value) (kindIs "map" $before) -}}
{{- $_ := set $found $name (include "prebuilds.over" (list $before $value) | fromYaml) -}}
{{- else if kindIs "invalid" $value -}}
{{- $_ := unset $found $name -}}
{{- else -}}
{{- $_ := set $found $name $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $found -}}
{{- end -}}

{{/* A setting as an environment variable has it. Helm reads whole numbers as floats. */}}
{{- define "prebuilds.text" -}}
{{- if kindIs "float64" . -}}{{- printf "%.0f" . | quote -}}{{- else -}}{{- toString . | quote -}}{{- end -}}
{{- end -}}

{{/* Not empty: the Worker Controller runs the workers of (list $ role). */}}
{{- define "prebuilds.isVersioned" -}}
{{- $controller := (index . 0).Values.workerController -}}
{{- if and $controller.enabled (or (eq (index . 1) "control") (and $controller.claims (eq (index . 1) "claims"))) -}}true{{- end -}}
{{- end -}}
