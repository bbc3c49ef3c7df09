{{/*
The parts that the pods of the operator and the gateway have in common. All take (dict "root" $ "component" NAME).
*/}}

{{/* No version of the chart among the labels: a release that changes nothing about the pods does not restart them. */}}
{{- define "imagefleet.podMetadata" -}}
{{- $values := index .root.Values .component -}}
labels:
  {{- $own := include "imagefleet.selectorLabels" . | fromYaml }}
  {{- $parts := dict "app.kubernetes.io/component" .component "app.kubernetes.io/part-of" "imagefleet" }}
  {{- merge $own $parts $values.podLabels .root.Values.commonLabels | toYaml | nindent 2 }}
annotations:
  {{- merge (dict "kubectl.kubernetes.io/default-container" .component) $values.podAnnotations | toYaml | nindent 2 }}
{{- end -}}

{{- define "imagefleet.podSpec" -}}
{{- $values := index .root.Values .component -}}
serviceAccountName: {{ include "imagefleet.serviceAccountName" . }}
automountServiceAccountToken: true
enableServiceLinks: false
terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
securityContext:
  {{- toYaml $values.podSecurityContext | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
topologySpreadConstraints:
  {{- with $values.topologySpreadConstraints }}
  {{- toYaml . | nindent 2 }}
  {{- else }}
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- include "imagefleet.selectorLabels" $ | nindent 8 }}
  {{- end }}
  {{- end }}
volumes:
  # The root file system is read-only.
  - name: tmp
    emptyDir:
      sizeLimit: 64Mi
  - name: caller-key
    secret:
      secretName: {{ include "imagefleet.callerSecretName" .root }}
      # Octal 0440: the process reads it by its group, fsGroup.
      defaultMode: 288
      items:
        - key: {{ include "imagefleet.callerSecretKey" .root }}
          path: caller.pem
{{- end -}}

{{- define "imagefleet.container" -}}
{{- $values := index .root.Values .component -}}
name: {{ .component }}
image: {{ include "imagefleet.image" (dict "root" .root "image" $values.image) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
# A first process ignores signals that it has no handler for yet: an init stands in until it has.
command: [dumb-init, --single-child, --, imagefleet-{{ .component }}]
startupProbe:
  httpGet: {path: /livez, port: http}
  periodSeconds: 2
  failureThreshold: 30
livenessProbe:
  httpGet: {path: /livez, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 2
  timeoutSeconds: 2
resources:
  {{- toYaml $values.resources | nindent 2 }}
securityContext:
  {{- toYaml $values.securityContext | nindent 2 }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
  - name: caller-key
    mountPath: /etc/imagefleet/caller
    readOnly: true
{{- end -}}

{{/* What the operator is told of all workers and verification Jobs. Whole numbers come from YAML as floats. */}}
{{- define "imagefleet.workerSettings" -}}
{{- $cache := .Values.modelCache -}}
- name: IMAGEFLEET_CACHE_TYPE
  value: {{ $cache.type }}
{{- if eq $cache.type "hostPath" }}
- name: IMAGEFLEET_CACHE_PATH
  value: {{ $cache.hostPath | quote }}
{{- else if eq $cache.type "pvc" }}
- name: IMAGEFLEET_CACHE_CLAIM
  value: {{ required "modelCache.type is pvc, so modelCache.claimName must name a claim" $cache.claimName }}
{{- end }}
- name: IMAGEFLEET_CACHE_BYTES
  value: {{ $cache.sizeBytes | int64 | quote }}
- name: IMAGEFLEET_SOURCE_LIMIT_BYTES
  value: {{ $cache.sourceLimitBytes | int64 | quote }}
{{- with .Values.worker.verifyServiceAccountName }}
- name: IMAGEFLEET_VERIFY_SERVICE_ACCOUNT
  value: {{ . }}
{{- end }}
{{- $variables := .Values.worker.extraEnv }}
{{- with .Values.tracing.otlpEndpoint }}
{{- $variables = prepend $variables (dict "name" "OTEL_EXPORTER_OTLP_ENDPOINT" "value" .) }}
{{- end }}
{{- with $variables }}
- name: IMAGEFLEET_WORKER_ENV
  # Doubled, or the kubelet would expand $(NAME) for the operator instead of for workers.
  value: {{ toJson . | replace "$(" "$$(" | quote }}
{{- end }}
{{- end -}}

{{/* The environment that both programs read. */}}
{{- define "imagefleet.env" -}}
{{- $values := index .root.Values .component -}}
# Libraries look their user's name up, and a uid that the cluster picked has no entry in /etc/passwd.
- name: USER
  value: imagefleet
- name: IMAGEFLEET_CALLER_KEY_FILE
  value: /etc/imagefleet/caller/caller.pem
- name: IMAGEFLEET_LOG_LEVEL
  value: {{ $values.logLevel }}
{{- with $values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
