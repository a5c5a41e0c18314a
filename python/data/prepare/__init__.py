"""`mmssl-fast data prepare`: a folder of CSR arrays and features that several processes can memory-map.

One module for each step: stream (batches of an interaction table), ids (the index of each id), grouped (rows by groups
of users, on disk), splits (the rules of data.split, a group at a time), renumber (other indices), write (the files),
run (all of it).
"""
