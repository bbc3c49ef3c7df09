{{- define "imagefleet.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The labels by which a component's pods are found. Takes (dict "root" $ "component" NAME). */}}
{{- define "imagefleet.selectorLabels" -}}
app.kubernetes.io/name: imagefleet-{{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end -}}

{{/* Labels of a component's objects. Takes the same. */}}
{{- define "imagefleet.labels" -}}
{{ include "imagefleet.selectorLabels" . }}
app.kubernetes.io/component: {{ .component }}
{{ include "imagefleet.commonLabels" .root }}
{{- end -}}

{{/* Labels of objects that belong to no component. */}}
{{- define "imagefleet.releaseLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{ include "imagefleet.commonLabels" . }}
{{- end -}}

{{- define "imagefleet.commonLabels" -}}
app.kubernetes.io/part-of: imagefleet
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* registry/repository@digest, or :tag where there is no digest. Takes (dict "root" $ "image" VALUES). */}}
{{- define "imagefleet.image" -}}
{{- $registry := .root.Values.image.registry | trimSuffix "/" -}}
{{- $name := empty $registry | ternary .image.repository (printf "%s/%s" $registry .image.repository) -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (coalesce .image.tag .root.Values.image.tag .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "imagefleet.serviceAccountName" -}}
{{- $own := printf "%s-%s" (include "imagefleet.fullname" .root) .component -}}
{{- (index .root.Values .component).serviceAccount.name | default $own -}}
{{- end -}}

{{- define "imagefleet.callerSecretName" -}}
{{- .Values.callerKey.existingSecret | default (printf "%s-caller-key" (include "imagefleet.fullname" .)) -}}
{{- end -}}

{{- define "imagefleet.callerSecretKey" -}}
{{- empty .Values.callerKey.existingSecret | ternary "caller.pem" .Values.callerKey.existingSecretKey -}}
{{- end -}}

{{/* DNS and the API server: what every component must reach. */}}
{{- define "imagefleet.egressToCluster" -}}
- ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
- ports:
    {{- range .Values.networkPolicy.egress.apiServerPorts }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
- to:
    - namespaceSelector: {}
      podSelector:
        matchLabels:
          app.kubernetes.io/name: imagefleet-worker
  ports:
    - {protocol: TCP, port: 8000}
{{- end -}}
