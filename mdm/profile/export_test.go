package profile

// HasSecretName is hasSecretName, for tests.
var HasSecretName = hasSecretName
