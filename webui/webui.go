// Package webui is the HTTP surface that browsers and programs share: the router
// and its middleware, sessions, security headers, problems, and the pages that
// belong to no other room.
//
// It knows users and sessions, but nothing of devices or certificates: the pages
// of those are in webui/portal and webui/admin, the REST API in webui/apiv1.
package webui
