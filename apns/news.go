package apns

// CertificatesTopic is notified in each transaction that changes
// which certificate a topic is pushed by.
const CertificatesTopic = "apns.certificates"
