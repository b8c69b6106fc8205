{{- define "bmaml.selector" -}}
app.kubernetes.io/name: bmaml
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "bmaml.labels" -}}
{{ include "bmaml.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}
