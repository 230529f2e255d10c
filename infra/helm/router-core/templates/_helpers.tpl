{{- define "router-core.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "router-core.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "router-core.labels" -}}
{{ include "router-core.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "router-core.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "router-core.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Where the replicas share what they share; nothing where each is alone. */}}
{{- define "router-core.state" -}}
{{- if .Values.redis.enabled -}}
redis://{{ include "router-core.fullname" . }}-redis:6379/0
{{- else -}}
{{- .Values.state.url -}}
{{- end -}}
{{- end -}}

{{/* The Secret whose entries become variables; nothing where there is none. */}}
{{- define "router-core.secret" -}}
{{- if .Values.secrets.existing -}}
{{- .Values.secrets.existing -}}
{{- else if .Values.secrets.values -}}
{{- include "router-core.fullname" . -}}
{{- end -}}
{{- end -}}

{{- define "router-core.container-security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
