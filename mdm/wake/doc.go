// Package wake has devices come for their commands: it pushes them through Apple, again
// while commands wait, and knows why one can't be woken.
//
// What is to be done stands in the database, in three kinds of records. The outbox says of
// a command that its devices are to be woken: it is written in the transaction that queues
// the command. A [mdm.Wakeup] says how far that is with one device, whatever the number of
// its commands. A [mdm.Pushing] says what is wrong with a whole topic. Any replica takes
// what is due, marks it as taken for a while, pushes, and writes down what came of it: one
// that dies in between leaves a mark that runs out.
package wake
